"""One HTML file that shows what a Job made of every Volume: tables, plots, pictures."""
