"""Lightning callbacks: scores and pictures of the validation, progress, and a guard."""
