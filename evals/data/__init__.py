"""From any mix of sources to one canonical, deduplicated, decontaminated file of pairs, by a recipe.

`recipe` says what is wanted, `sources` streams rows, `conventions` makes pairs of them, `filters`, `contamination` and
`duplicates` take pairs out, `splits` draws what is used and where, `build` carries a recipe out, and `current` tells
whether what was built still holds.
"""
