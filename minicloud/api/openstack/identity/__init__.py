"""Identity v3: who one is, what there is and where."""
