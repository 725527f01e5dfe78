"""Resource kinds: one package each, a pure half that plans and a thin adapter that acts."""
