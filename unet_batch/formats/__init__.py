"""Files of other tools, read and written: NIfTI, DICOM, and made-up phantoms."""
