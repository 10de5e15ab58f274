"""How good Labels are: overlap with a truth, volumes in millilitres, and Volumes that stand out."""
