"""Outputs for answers and jobs in every front end, without active content."""
