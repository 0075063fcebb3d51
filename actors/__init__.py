"""The long-lived Ray actors of the service graph, and the records that they exchange."""
