"""Tollgate: routes LLM queries on Kafka under budgets, decision and reservation in one transaction."""
