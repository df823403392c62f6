package graph

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"strings"

	"lorica.dev/lorica/catalog"
)

// DOT writes the graph in the language of Graphviz. Lines lead from a module to what
// it requires, dashed where others would do; red lines are conflicts.
func (g *Graph) DOT(to io.Writer) error {
	w := bufio.NewWriter(to)
	fmt.Fprint(w, "digraph catalog {\n\trankdir=TB;\n\tnode [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n")
	for i, m := range g.modules {
		fmt.Fprintf(w, "\t%s [label=%s, fillcolor=%q, tooltip=%s];\n", quoted(g.names[i]), quoted(fmt.Sprintf("%s\n%d points", g.names[i], m.Surface)), colour(m.Class), quoted(m.Summary))
	}
	for _, e := range g.edges {
		style := ""
		if e.choice {
			style = " [style=dashed]"
		}
		fmt.Fprintf(w, "\t%s -> %s%s;\n", quoted(g.names[e.from]), quoted(g.names[e.to]), style)
	}
	for _, c := range g.conflicts {
		fmt.Fprintf(w, "\t%s -> %s [dir=none, color=\"#c0392b\", constraint=false];\n", quoted(g.names[c[0]]), quoted(g.names[c[1]]))
	}
	fmt.Fprint(w, "}\n")
	return w.Flush()
}

// quoted is a string of DOT: only quotes and backslashes have a meaning in it.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// colours of classes, light enough for black text.
var colours = map[catalog.Class]string{
	catalog.ClassMachine: "#e0e0e0", catalog.ClassCore: "#cfd8dc", catalog.ClassPlatform: "#d7ccc8", catalog.ClassNet: "#bbdefb", catalog.ClassPart: "#b3e5fc",
	catalog.ClassGate: "#ffe0b2", catalog.ClassTLS: "#dcedc8", catalog.ClassGuard: "#fff9c4", catalog.ClassVerifier: "#ffecb3",
	catalog.ClassAudit: "#e1bee7", catalog.ClassSink: "#d1c4e9", catalog.ClassEgress: "#b2dfdb", catalog.ClassApp: "#f8bbd0",
}

func colour(c catalog.Class) string {
	if x, ok := colours[c]; ok {
		return x
	}
	return "#ffffff"
}

// Sizes of the drawing, in pixels.
const (
	character = 7.3 // of the font, by and large
	boxHeight = 38
	gapX      = 18
	gapY      = 64
	margin    = 16
	above     = 34 // room for conflicts over the first layer
)

// MostLines is how many pairs of modules New is for: of more, nobody could tell anything.
const MostLines = 1_000_000

// Drawable is how many modules SVG draws: more of them nobody can read.
const Drawable = 500

// A box is where a module is drawn.
type box struct{ x, y, width float64 }

// SVG draws the graph: what is required stands below what requires it.
func (g *Graph) SVG(to io.Writer) error {
	if g.Len() > Drawable {
		return fmt.Errorf("graph: %d modules; a drawing has at most %d", g.Len(), Drawable)
	}
	rows := g.layers()
	boxes := make([]box, g.Len())
	full := 0.0
	widths := make([]float64, len(rows))
	for r, row := range rows {
		x := 0.0
		for _, i := range row {
			boxes[i] = box{x, float64(r)*(boxHeight+gapY) + margin + above, float64(len(g.names[i]))*character + 20}
			x += boxes[i].width + gapX
		}
		widths[r] = max(x-gapX, 0)
		full = max(full, widths[r])
	}
	for r, row := range rows {
		for _, i := range row {
			boxes[i].x += (full-widths[r])/2 + margin
		}
	}
	w := bufio.NewWriter(to)
	height := float64(len(rows))*(boxHeight+gapY) - gapY + 2*margin + above + 20
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", full+2*margin, height, full+2*margin, height)
	fmt.Fprint(w, `<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#607d8b"/></marker></defs>`+"\n"+`<rect width="100%" height="100%" fill="#fff"/>`+"\n")
	for _, e := range g.edges {
		a, b := boxes[e.from], boxes[e.to]
		dash := ""
		if e.choice {
			dash = ` stroke-dasharray="5 4"`
		}
		x1, y1, x2, y2 := a.x+a.width/2, a.y+boxHeight, b.x+b.width/2, b.y
		if y2 <= y1 { // against the order: a cycle
			y1, y2 = a.y, b.y+boxHeight
		}
		half := (y1 + y2) / 2
		fmt.Fprintf(w, `<path d="M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f" fill="none" stroke="#607d8b"%s marker-end="url(#to)"><title>%s requires %s</title></path>`+"\n",
			x1, y1, x1, half, x2, half, x2, y2, dash, html.EscapeString(g.names[e.from]), html.EscapeString(g.names[e.to]))
	}
	for _, c := range g.conflicts {
		a, b := boxes[c[0]], boxes[c[1]]
		x1, y1, x2, y2 := a.x+a.width/2, a.y, b.x+b.width/2, b.y
		fmt.Fprintf(w, `<path d="M%.1f %.1fQ%.1f %.1f %.1f %.1f" fill="none" stroke="#c0392b" stroke-dasharray="2 3"><title>%s and %s exclude each other</title></path>`+"\n",
			x1, y1, (x1+x2)/2, min(y1, y2)-2*above+4, x2, y2, html.EscapeString(g.names[c[0]]), html.EscapeString(g.names[c[1]]))
	}
	for i, m := range g.modules {
		b := boxes[i]
		fmt.Fprintf(w, `<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%d" rx="5" fill="%s" stroke="#455a64"/><text x="%.1f" y="%.1f" text-anchor="middle">%s</text><text x="%.1f" y="%.1f" text-anchor="middle" font-size="10" fill="#455a64">%d points</text></g>`+"\n",
			html.EscapeString(m.Summary), b.x, b.y, b.width, boxHeight, colour(m.Class), b.x+b.width/2, b.y+16, html.EscapeString(g.names[i]), b.x+b.width/2, b.y+30, m.Surface)
	}
	fmt.Fprintf(w, `<text x="%d" y="%.1f" fill="#455a64">Solid: requires. Dashed: one of several that would do. Red: exclude each other.</text>`+"\n</svg>\n", margin, height-8)
	return w.Flush()
}
