"""The Responses API and its wire: requests, responses, events and failures.

It knows no notebook and keeps nothing.
"""
