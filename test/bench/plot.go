package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// A plot is how a cost grows, both axes logarithmic.
type plot struct {
	Title, X, Y string
	Lines       []curve
}

type curve struct {
	Name   string
	Points [][2]float64 // ascending by x
}

const (
	plotWidth, plotHeight = 560, 300
	left, right           = 70, 150
	top, bottom           = 36, 44
)

// svg draws the plot. Where the graph is flat the cost does not grow.
func (p *plot) svg() string {
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range p.Lines {
		for _, q := range l.Points {
			x0, x1 = min(x0, q[0]), max(x1, q[0])
			y0, y1 = min(y0, q[1]), max(y1, q[1])
		}
	}
	y0, y1 = math.Pow(10, math.Floor(math.Log10(y0))), math.Pow(10, math.Ceil(math.Log10(y1*1.01)))
	if x1 <= x0 {
		x1 = x0 * 10
	}
	px := func(x float64) float64 {
		return left + math.Log(x/x0)/math.Log(x1/x0)*(plotWidth-left-right)
	}
	py := func(y float64) float64 {
		return plotHeight - bottom - math.Log(y/y0)/math.Log(y1/y0)*(plotHeight-top-bottom)
	}
	var w strings.Builder
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&w, `<rect width="%d" height="%d" fill="#fff"/><text x="%d" y="20" font-weight="bold">%s</text>`+"\n", plotWidth, plotHeight, left, html.EscapeString(p.Title))
	for y := y0; y <= y1*1.001; y *= 10 {
		fmt.Fprintf(&w, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left, py(y), plotWidth-right, left-6, py(y)+4, number(y))
	}
	for x := x0; x <= x1*1.001; x *= 10 {
		fmt.Fprintf(&w, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", px(x), plotHeight-bottom+18, number(x))
	}
	fmt.Fprintf(&w, `<text x="%d" y="%d" text-anchor="middle">%s</text><text transform="translate(14 %d) rotate(-90)" text-anchor="middle">%s</text>`+"\n",
		(left+plotWidth-right)/2, plotHeight-8, html.EscapeString(p.X), (top+plotHeight-bottom)/2, html.EscapeString(p.Y))
	for i, l := range p.Lines {
		colour := [...]string{"#1b6ca8", "#c8553d", "#4f772d", "#7b2d8b"}[i%4]
		var path strings.Builder
		for n, q := range l.Points {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(n, 1)], px(q[0]), py(q[1]))
		}
		last := l.Points[len(l.Points)-1]
		fmt.Fprintf(&w, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n",
			path.String(), colour, px(last[0])+6, py(last[1])+4, colour, html.EscapeString(l.Name))
	}
	w.WriteString("</svg>\n")
	return w.String()
}
