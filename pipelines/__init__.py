"""The things a user runs: each file is one command and reads like the recipe that it carries out."""
