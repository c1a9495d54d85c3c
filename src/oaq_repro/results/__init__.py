"""Run records and what is made from them: the store, the terminal table, figures and comparison tables."""
