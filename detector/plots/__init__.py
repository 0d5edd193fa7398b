"""Small charts for checks and reports."""
