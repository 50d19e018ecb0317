"""A policy behind OpenAI's HTTP interface: ``kedge serve``."""
