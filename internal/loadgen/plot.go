package loadgen

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// A curve is one distribution of a plot.
type curve struct {
	name string
	of   *Latency
}

// curves are what a report has to plot, the most important first, two at most.
func (r *Report) curves() []curve {
	switch {
	case r.Scenario == Connect && r.Handshakes != nil:
		return []curve{{"handshakes", &r.Handshakes.Latency}}
	case r.Traffic != nil && r.Unstalled != nil:
		return []curve{
			{fmt.Sprintf("with %d connections that never read", r.Traffic.Stalled), &r.Traffic.Latency},
			{"with everybody reading", &r.Unstalled.Latency},
		}
	case r.Traffic != nil:
		return []curve{{"each receiver", &r.Traffic.Latency}, {"last receiver of a message", &r.Traffic.Last}}
	}
	return nil
}

// The plot's measures, in px.
const (
	plotWidth, plotHeight    = 800, 480
	plotLeft, plotRight      = 76.0, 772.0
	plotTop, plotBottom      = 124.0, 400.0
	plotSteps                = 400 // points of a curve
	plotFont                 = `font-family="system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"`
	plotLight, plotDark      = "--paper:#fff;--ink:#1b2230;--soft:#5c667a;--grid:#e3e7ee;--c0:#1d5fd0;--c1:#d0570c", "--paper:#11151c;--ink:#e9edf4;--soft:#9aa5b8;--grid:#29303c;--c0:#6fa8ff;--c1:#ffa25c"
	plotTickLine, plotLegend = 20.0, 22.0
	plotColumn               = 112.0
	plotNines                = 6.0 // at most; for more the labels have no room
)

// Plot writes the distributions as an SVG that suits a light page and a dark
// one. Across are the percentiles, each nine as far from the one before as
// that from its own, so that the rare and slow deliveries have room; up is the latency.
func (r *Report) Plot(w io.Writer) error {
	var curves []curve
	top, most := 0.0, int64(0)
	for _, c := range r.curves() {
		if c.of.Count > 0 {
			curves = append(curves, c)
			top, most = max(top, c.of.Max), max(most, c.of.Count)
		}
	}
	if len(curves) == 0 {
		return errors.New("there is no latency to plot")
	}
	step := niceStep(top / 5)
	top = step * math.Ceil(top/step)
	nines := min(max(2, math.Ceil(math.Log10(float64(most)))), plotNines) // beyond there is less than one delivery
	x := func(n float64) float64 { return plotLeft + (plotRight-plotLeft)*n/nines }
	y := func(us float64) float64 { return plotBottom - (plotBottom-plotTop)*us/top }

	var b strings.Builder
	title := "Latency: " + r.Title()
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" %s font-size="13">`+"\n", plotWidth, plotHeight, plotFont)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(title))
	fmt.Fprintf(&b, "<style>\n:root{%s}\n@media (prefers-color-scheme:dark){:root{%s}}\n", plotLight, plotDark)
	b.WriteString("text{fill:var(--soft)}.head{fill:var(--ink);font-weight:600}.ink{fill:var(--ink)}.grid{stroke:var(--grid)}.n{font-variant-numeric:tabular-nums}\n")
	b.WriteString(".c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.a0{fill:var(--c0);opacity:.1}\n</style>\n")
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="10" fill="var(--paper)"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<text class="head" x="28" y="36" font-size="17">%s</text>`+"\n", escape(title))
	for i, c := range curves {
		at := 64 + plotLegend*float64(i)
		fmt.Fprintf(&b, `<path class="c%d" d="M28 %.1fh22" stroke-width="3" stroke-linecap="round"/>`, i, at-4.5)
		fmt.Fprintf(&b, `<text x="60" y="%.1f"><tspan class="ink">%s</tspan></text>`, at, escape(c.name))
		for j, of := range []struct {
			name string
			us   float64
		}{{"max", c.of.Max}, {"p99.9", c.of.P999}, {"p99", c.of.P99}, {"p50", c.of.P50}} {
			fmt.Fprintf(&b, `<text class="n" x="%.0f" y="%.1f" text-anchor="end">%s %s</text>`, plotRight-plotColumn*float64(j), at, of.name, Duration(of.us))
		}
		b.WriteByte('\n')
	}
	for us := 0.0; us <= top*1.001; us += step {
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fH%.1f"/><text class="n" x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			plotLeft, y(us), plotRight, plotLeft-10, y(us)+4.5, tick(us, top))
	}
	for n := 0.0; n <= nines; n++ {
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f %.1fV%.1f"/><text class="n" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n",
			x(n), plotTop, plotBottom, x(n), plotBottom+plotTickLine, map[bool]string{false: "middle", true: "end"}[n == nines], percentile(n))
	}
	fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" font-size="12">percentile: so many were no slower</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+2.1*plotTickLine)
	fmt.Fprintf(&b, `<text x="28" y="%.1f" font-size="12">%s</text>`+"\n", plotBottom+3.2*plotTickLine, escape(r.URL))
	for i := len(curves) - 1; i >= 0; i-- { // the first one on top
		c := curves[i]
		end := min(math.Log10(float64(max(c.of.Count, 2))), nines)
		var d strings.Builder
		for s := range plotSteps + 1 {
			n := end * float64(s) / plotSteps
			us := float64(c.of.all.ValueAtPercentile(100*(1-math.Pow(10, -n)))) / 1e3
			if s == plotSteps {
				us = c.of.Max
			}
			fmt.Fprintf(&d, "L%.1f %.1f", x(n), y(min(us, top)))
		}
		line := "M" + d.String()[1:]
		if i == 0 {
			fmt.Fprintf(&b, `<path class="a0" d="%sV%.1fH%.1fZ"/>`+"\n", line, plotBottom, plotLeft)
		}
		fmt.Fprintf(&b, `<path class="c%d" d="%s" fill="none" stroke-width="2.5" stroke-linejoin="round" stroke-linecap="round"/>`+"\n", i, line)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// niceStep is the least of 1, 2, 5, 10, 20, … that is no less than v.
func niceStep(v float64) float64 {
	step := math.Pow(10, math.Floor(math.Log10(max(v, 1e-3))))
	for _, times := range []float64{1, 2, 5} {
		if step*times >= v {
			return step * times
		}
	}
	return step * 10
}

// tick is a label of the latencies' axis, in the unit that suits its top.
func tick(us, top float64) string {
	switch {
	case us == 0:
		return "0"
	case top < 2e3:
		return fmt.Sprintf("%g µs", math.Round(us*1e3)/1e3)
	case top < 2e6:
		return fmt.Sprintf("%g ms", math.Round(us)/1e3)
	}
	return fmt.Sprintf("%g s", math.Round(us/1e3)/1e3)
}

// percentile is the label at n nines: 0 %, 90 %, 99 %, 99.9 %.
func percentile(n float64) string {
	switch n {
	case 0:
		return "0 %"
	case 1:
		return "90 %"
	case 2:
		return "99 %"
	}
	return "99." + strings.Repeat("9", int(n)-2) + " %"
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
