"""What is seen of answers and jobs, in every front end. Nothing in it is active."""
