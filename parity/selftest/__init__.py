"""What a verdict is worth: honest results that must be within, planted faults that must not be.

`suite` makes both of any case of the suite `ops` on inputs of any seed; `card` counts what the judge
and the field's own criteria say of them. Nothing here decides a verdict of a check.
"""
