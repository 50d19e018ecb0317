"""Answers from servers: a sampler over HTTP."""
