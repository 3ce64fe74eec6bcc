"""The Responses API and its wire: requests, responses, events and failures.

It imports nothing of the notebook, and stores nothing.
"""
