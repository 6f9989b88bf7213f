LIBRARY="x"
CASES=()
def version():
    raise LookupError("x")
