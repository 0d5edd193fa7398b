"""The verbs: check, train, evaluate, detect, compare, and what each is made of."""
