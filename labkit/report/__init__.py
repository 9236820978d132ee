"""How it is told: findings, figures, runs, pages."""
