"""Requests and answers in one SQLite file, their replay, and recordings of them."""
