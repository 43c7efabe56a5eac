"""What is asked for and judged: initial layouts, success rules, out-of-distribution changes."""
