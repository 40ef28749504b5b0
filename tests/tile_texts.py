"""Tile programs as text, for tests of what reads, runs and counts them."""

from __future__ import annotations

FLASH = """
program attention(Q[b, h; p, e]: float, K[b, h; m, e]: float, V[b, h; m, f]: float)
        -> O[b, h; p, f]: float, L[b, h; p]: float:
    kernel attention over b, h, p by {P}:
        axis p = |p| by {P}
        axis m0 = {M} by {M}
        axis e = |e|
        axis f = |f|
        load Q1[p, e] = Q[b, h, p, e]
        loop m1:
            carry G[p] = -inf
            carry D[p] = 0
            carry T[p, f] = 0
            segment 0 to {full} "full":
                load K1[m0, e] = K[b, h, m1 * {M} + m0, e]
                load V1[m0, f] = V[b, h, m1 * {M} + m0, f]
                contract B[p, m0] = Q1[p, e] * K1[m0, e] over e
                compute S[p, m0] = B[p, m0] / sqrt(|e|)
{update}
                compute N[p, m0] = exp(S[p, m0] - safe[p])
{rest}
            segment {full} to {end} "partial":
                load K1[m0, e] = K[b, h, m1 * {M} + m0, e] where m1 * {M} + m0 < |m|
                load V1[m0, f] = V[b, h, m1 * {M} + m0, f] where m1 * {M} + m0 < |m|
                contract B[p, m0] = Q1[p, e] * K1[m0, e] over e
                compute S[p, m0] = select({guard}, B[p, m0] / sqrt(|e|), -inf)
{update}
                compute N[p, m0] = select({guard}, exp(S[p, m0] - safe[p]), 0)
{rest}
        compute O1[p, f] = select(D[p] == 0, 0, T[p, f] / D[p])
        compute L1[p] = G[p] + log(D[p])
        store O[b, h, p, f] = O1[p, f]
        store L[b, h, p] = L1[p]
"""
UPDATE = """
                fold top[p] = max S[p, m0] over m0
                compute Gn[p] = max(G[p], top[p])
                compute safe[p] = select(Gn[p] == -inf, 0, Gn[p])
"""
REST = """
                compute keep[p] = select(G[p] == -inf, 0, exp(G[p] - safe[p]))
                fold own[p] = sum N[p, m0] over m0
                compute Dn[p] = D[p] * keep[p] + own[p]
                contract U[p, f] = N[p, m0] * V1[m0, f] over m0
                compute Tn[p, f] = T[p, f] * keep[p] + U[p, f]
                next Gn, Dn, Tn
"""


def flash(P: int, M: int, causal: bool = False) -> str:
    """Attention in one sweep, its queries in tiles of P and its keys in tiles of M."""
    position = f"m1 * {M} + m0"
    if causal:
        full = f"min(|m|, first(p) + 1) // {M}"
        end = f"max({full}, (min(|m|, last(p) + 1) - 1) // {M} + 1)"
        guard = f"{position} < |m| and {position} <= p"
    else:
        full, end, guard = f"|m| // {M}", f"(|m| - 1) // {M} + 1", f"{position} < |m|"
    text = FLASH.format(
        P=P, M=M, full=full, end=end, guard=guard, update=UPDATE.strip("\n"), rest=REST.strip("\n")
    )
    return text.replace("\n        ->", " ->")


WINDOW = """
program window(X[b; p]: float, w[; k]: float) -> Y[b; p]: float:
    kernel window over b, p by 16:
        axis p = |p| by 16
        axis k = |k|
        load x[p, k] = X[b, p + k - 2] where p + k - 2 >= 0 and p + k - 2 < |p|
        load c[k] = w[k]
        compute z[p, k] = x[p, k] * c[k]
        fold y[p] = sum z[p, k] over k
        store Y[b, p] = y[p]
"""
"""A convolution whose ends leave their tensor: read by table, point by point."""

SHIFT = """
program shift(X[b; p, d]: float) -> Y[b; p, d]: float:
    kernel shift over b, p by 16:
        axis p = |p| by 16
        axis d = |d|
        load x[p, d] = X[b, p - 1, d] where p - 1 >= 0
        load y[p, d] = X[b, p + 2, d] where p + 2 < |p| and p + 2 != 7
        compute z[p, d] = x[p, d] + 10 * y[p, d]
        store Y[b, p, d] = z[p, d]
"""
"""Runs that leave their tensor at either end, one with a test of its own."""

PADDED = """
program padded(X[b; m]: float) -> Y[b]: float, C[b]: float:
    kernel padded over b:
        axis m0 = 8 by 8
        loop m1:
            carry s[] = 0.0
            carry n[] = 0
            segment 0 to (|m| - 1) // 8 + 1 "":
                load x[m0] = X[b, m1 * 8 + m0] where m1 * 8 + m0 < |m|
                compute e[m0] = exp(x[m0])
                compute one[m0] = x[m0] * 0 + 1
                fold s1[] = sum e[m0] over m0
                fold n1[] = sum one[m0] over m0
                compute s2[] = s[] + s1[]
                compute n2[] = n[] + n1[]
                next s2, n2
        compute y[] = s[]
        store Y[b] = y[]
        compute c[] = n[]
        store C[b] = c[]
""".replace("Y[b]: float, C[b]: float", "Y[b; ]: float, C[b; ]: float")
"""A fold that sees the positions past the end: exp(0) is 1 there, so the tile must be padded."""

STATES = """
program states(X[t, d]: float, Z[d]: float) -> Y[t, d]: float, W[d]: float:
    kernel states over t:
        axis d = |d|
        load z[d] = Z[d]
        loop i:
            carry a[d] = z[d]
            carry b[d] = 0
            carry c[d] = 1
            carry k[] = 0
            segment 0 to t "":
                load x[d] = X[i, d]
                compute s[d] = a[d] + b[d] + x[d] * k[]
                compute k1[] = k[] + 1
                next b, s, b, k1
        compute y[d] = a[d] + 2 * b[d] + 3 * c[d] + 5 * k[] + 7 * z[d]
        store Y[t, d] = y[d]
    kernel twice over d by 8:
        axis d = |d| by 8
        load y[d] = Y[|t| - 1, d]
        compute w[d] = y[d] * 2
        store W[d] = w[d]
""".replace("[t, d]: float", "[; t, d]: float").replace("[d]: float", "[; d]: float")
"""States that change places, one value carried on twice, and a kernel that reads another's."""

PAGED = """
program paged(Q[b; e]: float, C[; n, s, e]: float, table[b; j]: int, len[b; ]: int)
        -> O[b; ]: float:
    kernel paged over b:
        axis m0 = 4 by 4
        axis e = |e|
        load q[e] = Q[b, e]
        load l[] = len[b]
        loop m1:
            carry t[] = 0
            segment 0 to (l[] - 1) // 4 + 1 "":
                load p[m0] = table[b, (m1 * 4 + m0) // |s|] where m1 * 4 + m0 < l[]
                load c[m0, e] = C[p[m0], (m1 * 4 + m0) % |s|, e] where m1 * 4 + m0 < l[]
                contract d[m0] = c[m0, e] * q[e] over e
                compute f[m0] = select(m1 * 4 + m0 < l[], d[m0] * d[m0], 0)
                fold u[] = sum f[m0] over m0
                compute t1[] = t[] + u[]
                next t1
        store O[b] = t[]
""".replace("\n        ->", " ->")
"""Positions read from a table, ranges that end where the data says."""

OWN = """
program own(X[; p, m]: float) -> Y[; p]: float, Z[; p]: float, A[; p]: bool, N[; p]: int:
    reduction lse2(x, y) = log2(exp2(x) + exp2(y)) identity -inf
    kernel own over p by 4:
        axis p = |p| by 4
        axis m = |m|
        load x[p, m] = X[p, m]
        fold y[p] = lse2 x[p, m] over m
        fold z[p] = logsumexp x[p, m] over m
        compute above[p, m] = x[p, m] > 0
        fold a[p] = any above[p, m] over m
        fold n[p] = sum above[p, m] over m
        store Y[p] = y[p]
        store Z[p] = z[p]
        store A[p] = a[p]
        store N[p] = n[p]
"""
"""A reduction of the user's own beside the built-in ones; truth that is counted."""
