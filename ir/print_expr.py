from attnc.ir.expr import *
def print_expr(e):
    match e:
        case Const(v): return str(v)
        case Index(r): return r
        case Extent(r): return f"|{r}|"
        case Param(n): return n
        case Map(op, a):
            if op in ("+","-","*","/","//","%","**","==","<","<=",">",">=","and","or") : return "("+f" {op} ".join(map(print_expr,a))+")"
            return f"{op}({', '.join(map(print_expr,a))})"
        case Cast(d,b): return f"cast({print_expr(b)}, {d})"
        case Access(t,s): return f"{t}[{', '.join(map(print_expr,s))}]"
        case Reduce(op,r,b,w): return f"{op}[{', '.join(r)}{'' if w is None else ' where '+print_expr(w)}]({print_expr(b)})"
        case Populate(op,r,b,w,s): return f"{op}[{r}]({print_expr(b)})"
        case Tile(n,r): return f"{n}[{', '.join(r)}]"
