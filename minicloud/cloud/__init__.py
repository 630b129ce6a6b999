"""DECIDE: what a front door calls.  One function for each verb, one transaction in each."""
