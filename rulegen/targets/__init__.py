"""What a person does with either target, in the same words: render, compare, apply, remove. For the command line."""
