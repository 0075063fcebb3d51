"""The model card: what makes a judge's folder ready for the hub."""

from evals.reports.card.card import CardError, write_card

__all__ = ["CardError", "write_card"]
