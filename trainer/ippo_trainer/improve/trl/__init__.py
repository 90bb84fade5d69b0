"""trl's trainers as algorithms of `improve`: our states, Q and guards around a trainer that is used as it is."""
