package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// inspected is what inspect answers in JSON.
type inspected struct {
	Instance *tender.Status `json:"instance,omitempty"`
	Image    *builder.Image `json:"image"`
}

func (c *cli) inspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "inspect IMAGE|INSTANCE",
		GroupID: "look",
		Short:   "Show what an image is made of, or an instance and its image",
		Long: `IMAGE is a digest, or the beginning of one; INSTANCE is a name that ps shows, or a
workload.`,
		Example: "  lorica inspect payments\n  lorica inspect sha256:0a1b2c -o json",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, list []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			found, err := inspect(cmd.Context(), m, list[0])
			if err != nil {
				return err
			}
			return c.print(found, func(w io.Writer) { printInspected(w, found) })
		},
		ValidArgsFunction: c.completeInstances,
	}
}

func inspect(ctx context.Context, m *run.Machine, name string) (*inspected, error) {
	if i, err := m.Find(ctx, name); err == nil {
		img, err := m.Store().Open(i.Status.ImageDigest)
		return &inspected{Instance: &i.Status, Image: img}, err
	} else if !errors.Is(err, run.ErrNone) && err.Error() != "nothing runs" {
		return nil, err
	}
	images, err := m.Store().Images()
	if err != nil {
		return nil, err
	}
	var found []*builder.Image
	for _, img := range images {
		if strings.HasPrefix(img.Digest, name) || strings.HasPrefix(img.Digest, "sha256:"+name) {
			found = append(found, img)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q is neither an instance that runs (lorica ps) nor the beginning of an image's digest", name)
	case 1:
		return &inspected{Image: found[0]}, nil
	}
	return nil, fmt.Errorf("%q is the beginning of %d digests: write more of it", name, len(found))
}

// network says what network an instance has, and which way clients' packets take to a
// stack of its own.
func network(s *tender.Status) string {
	if s.Way == "" {
		return api.NetSocket
	}
	way := s.Way
	if s.Interface != nil {
		way += " " + s.Interface.String()
	}
	return fmt.Sprintf("%s (%s)", api.NetDirect, way)
}

// packets says what was counted of them, in all and by rule.
func packets(p *tender.Packets) [][]string {
	if p.In+p.Denied+p.Malformed == 0 {
		return nil
	}
	rows := [][]string{{"packets", fmt.Sprintf("%d in, %d out; %d denied, %d malformed; %d flows, %d forgotten for want of room", p.In, p.Out, p.Denied, p.Malformed, p.Flows, p.FlowsDropped)}}
	for _, r := range p.Rules {
		rows = append(rows, []string{"", fmt.Sprintf("%d by %s", r.Packets, r.Rule)})
	}
	return rows
}

// records says where they are kept, and how those fare that are sent.
func records(s *tender.Status) [][]string {
	if len(s.Records) < 2 && slices.Contains(s.Records, tender.RecordsChannel) {
		return nil
	}
	rows := [][]string{{"records", "kept by " + strings.Join(s.Records, ", ")}}
	for _, k := range s.Stats.Sinks {
		text := fmt.Sprintf("%s: %d delivered, %d wait, %d sent again, %d lost", k.Sink, k.Delivered, k.Waiting, k.Repeated, k.Lost)
		if !k.Connected && k.Trouble != "" {
			text += "; not connected: " + plain(k.Trouble)
		}
		rows = append(rows, []string{"", text})
	}
	return rows
}

func printInspected(w io.Writer, x *inspected) {
	if s := x.Instance; s != nil {
		rows := [][]string{
			{"instance", s.Instance}, {"workload", s.Tenant + "/" + s.Workload}, {"state", string(s.State)}, {"target", runsOn(s)}, {"tier", s.Tier}, {"memory", s.Limits},
			{"listens", addresses(s)}, {"network", network(s)}, {"policy", s.Policy}, {"enforced", enforcement(s)}, {"level", s.Level + ", " + why(&s.Standing)}, {"revision", fmt.Sprint(s.Revision)},
			{"program", s.Program}, {"content", s.Content}, {"started", s.Started.Local().Format("2006-01-02 15:04:05")},
			{"process", fmt.Sprintf("%d under tender %d", s.PID, s.TenderPID)}, {"restarts", fmt.Sprint(s.Restarts)}, {"last error", s.LastError},
			{"requests", fmt.Sprintf("%d allowed, %d denied; %d connections refused", s.Stats.Allowed, s.Stats.Denied, s.Stats.Refused)},
		}
		rows = append(rows, records(s)...)
		if b := bridge(&s.Standing); b != "" {
			rows = append(rows, []string{"image", b})
		}
		rows = slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" }) // nothing to say
		table(w, "", append(rows, packets(&s.Stats.Packets)...))
		fmt.Fprintln(w)
	}
	img := x.Image
	var modules []string
	for _, m := range img.Modules {
		modules = append(modules, m.String())
	}
	var calls []string
	for _, s := range img.Syscalls {
		calls = append(calls, s.String())
	}
	var linked []string
	for _, p := range img.Packages {
		if host, _, _ := strings.Cut(p, "/"); strings.Contains(host, ".") { // what is vendored there is the library's own
			linked = append(linked, p)
		}
	}
	table(w, "", [][]string{
		{"image", img.Digest}, {"plan", img.Plan}, {"target", img.Target}, {"toolchain", img.GoVersion}, {"catalog", img.Catalog}, {"size", fmt.Sprintf("%d bytes", img.Size)},
		{"file", img.Path}, {"debug file", img.Debug}, {"modules", strings.Join(modules, " ")},
		{"packages", fmt.Sprintf("%d linked, %d of them outside the standard library (all in -o json)", len(img.Packages), len(linked))},
	})
	head := "system calls after the seal"
	if img.Target == api.TargetMicroVM {
		head, calls = "devices of the machine", img.Devices
	}
	fmt.Fprintf(w, "\n%s:\n", head)
	for _, s := range calls {
		fmt.Fprintln(w, "  "+s)
	}
	fmt.Fprintln(w, "\nlinked from outside the standard library:")
	for _, p := range linked {
		fmt.Fprintln(w, "  "+p)
	}
}
