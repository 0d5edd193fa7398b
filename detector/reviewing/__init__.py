"""`review`: rank the labels that look wrong, and write corrected copies of labels."""
