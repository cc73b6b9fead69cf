"""The proof: oracle, cases, comparison, tolerances, and the verdict on one artifact."""
