package learn

import (
	"math/bits"
	"net/netip"
	"slices"
)

// covering returns prefixes that cover all addresses, at most so many of either family, and
// none that reaches beyond one of the bounds, each of which may need one of its own. Among
// those it takes addresses together that share most of their bits. With most 0, it takes
// only together what makes a prefix to the last address.
func covering(addrs []netip.Prefix, most int, bounds []netip.Prefix) []netip.Prefix {
	all := slices.Clone(addrs)
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var apart []netip.Prefix // none within another
	for _, p := range all {
		if n := len(apart); n == 0 || !apart[n-1].Overlaps(p) {
			apart = append(apart, p)
		}
	}
	if most > 0 {
		at := slices.IndexFunc(apart, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if at < 0 {
			at = len(apart)
		}
		apart = append(joined(apart[:at], most, bounds), joined(apart[at:], most, bounds)...)
	}
	return whole(apart)
}

// joined is covering for one family, of prefixes in order.
func joined(list []netip.Prefix, most int, bounds []netip.Prefix) []netip.Prefix {
	if len(list) == 0 {
		return nil
	}
	// Between two neighbours is a gap; those with the fewest bits in common are kept. What
	// lies between two kept gaps is then a whole branch of the tree of addresses.
	type gap struct{ at, common int }
	var gaps []gap
	kept := make([]bool, len(list))
	n := 1
	for i := 1; i < len(list); i++ {
		g := gap{i, common(list[i-1], list[i])}
		p := netip.PrefixFrom(list[i].Addr(), g.common).Masked()
		if !slices.ContainsFunc(bounds, func(b netip.Prefix) bool { return b.Bits() <= p.Bits() && b.Contains(p.Addr()) }) {
			kept[i] = true
			n++
			continue
		}
		gaps = append(gaps, g)
	}
	slices.SortStableFunc(gaps, func(a, b gap) int { return a.common - b.common })
	for _, g := range gaps[:max(0, min(len(gaps), most-n))] {
		kept[g.at] = true
	}
	var out []netip.Prefix
	for i, p := range list {
		if i == 0 || kept[i] {
			out = append(out, p)
			continue
		}
		last := &out[len(out)-1]
		*last = netip.PrefixFrom(last.Addr(), min(last.Bits(), common(*last, p))).Masked()
	}
	return out
}

// common counts the bits that two prefixes begin with.
func common(a, b netip.Prefix) int {
	x, y := a.Addr().AsSlice(), b.Addr().AsSlice()
	n := min(a.Bits(), b.Bits())
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return min(n, 8*i+bits.LeadingZeros8(d))
		}
	}
	return n
}

// whole joins halves.
func whole(list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			a, b := out[n-2], out[n-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().Is4() != b.Addr().Is4() || common(a, b) != a.Bits()-1 {
				break
			}
			out = append(out[:n-2], netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked())
		}
	}
	return out
}
