"""What is asked, and where it stands: conversations, replays, budgets.

It knows no IPython and shows nothing.
"""
