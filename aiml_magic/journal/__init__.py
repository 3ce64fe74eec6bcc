"""What is kept: requests and answers in one SQLite file, when one stands for a new question, and recordings of them."""
