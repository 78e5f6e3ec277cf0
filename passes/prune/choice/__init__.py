"""What to remove: rankings, rounding, budgets, and what a choice costs, counted without the surgery."""
