package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
)

// upping is one run of 'up': what it shows and what it waits for.
type upping struct {
	*cli
	path       string
	requests   *try.File
	identities map[string]identities // by deployment
	exit       bool                  // after the requests

	mu        sync.Mutex
	progress  *progress
	status    map[string]*tender.Status
	decisions []tender.Decision // kept while requests are tried
	trying    bool
	arrived   chan struct{} // a decision came
	ready     chan struct{}
	once      sync.Once
}

func (c *cli) upCommand() *cobra.Command {
	var o run.UpOptions
	var requests string
	u := &upping{cli: c, status: map[string]*tender.Status{}, arrived: make(chan struct{}, 1), ready: make(chan struct{})}
	cmd := &cobra.Command{
		Use:     "up",
		GroupID: "run",
		Short:   "Plan, build and run, and follow every change of the files",
		Long: `Plans, builds and runs the workloads of the documents, shows their decisions, and
watches the files: a change that is saved is checked and taken over while everything
runs, with a new program where the modules stay, with a new image where they do not.
A change that is wrong is reported, and what ran before still runs. Ctrl-C drains and
leaves nothing behind; a second one ends this command at once, and what runs goes on
draining by itself.

With --try, the requests of a file are made once everything is ready, and shown with
what was expected and which rule decided.`,
		Example: `  lorica up -f examples/payments
  lorica up -f shop --try shop/requests.yaml --exit`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkChosen(o.Target, o.Network); err != nil {
				return err
			}
			if u.exit && requests == "" {
				return usageError{errors.New("--exit needs --try")}
			}
			if requests != "" {
				var err error
				if u.requests, err = try.Load(requests); err != nil {
					return err
				}
				u.trying = true
			}
			u.path = o.Path
			return u.run(cmd.Context(), o)
		},
	}
	fileFlag(cmd, &o.Path)
	targetFlag(cmd, &o.Target)
	netFlag(cmd, &o.Network)
	cmd.Flags().StringVar(&o.Level, "level", "", "security level (the policy's initial level where none is given)")
	cmd.Flags().StringVar(&requests, "try", "", "make the requests of this file once everything is ready")
	cmd.Flags().BoolVar(&u.exit, "exit", false, "end after --try, with exit code 1 where anything differs from what was expected")
	_ = cmd.MarkFlagFilename("try", "yaml", "yml")
	return cmd
}

func (u *upping) run(ctx context.Context, o run.UpOptions) error {
	m, err := machine()
	if err != nil {
		return err
	}
	if u.format != "json" {
		plans, err := u.plans(ctx, m, o.Path, o.Target, o.Network, nil)
		if err != nil {
			return err
		}
		printPlans(u.out, plans)
		fmt.Fprintln(u.out)
	}
	bundle, err := u.load(o.Path)
	if err != nil {
		return err
	}
	u.identities = map[string]identities{}
	for _, d := range bundle.Deployments {
		u.identities[d.Name()] = identities{m.Development(), d}
	}
	return u.follow(ctx, func(ctx context.Context) error { return m.Up(ctx, o, u.event) })
}

// follow shows what up does until it ends, and makes the requests once it says that
// everything is ready.
func (u *upping) follow(ctx context.Context, up func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A reader that goes away, as in 'up | head', ends the run in order instead of
	// killing this process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	u.out = &watched{u.out, cancel}
	ended := make(chan error, 1)
	go func() { ended <- up(ctx) }()
	ok := true
	var failed error
	select {
	case err := <-ended:
		if err == nil && u.exit {
			return errors.New("it was ended before the requests were made")
		}
		return u.explain(err)
	case <-u.ready:
	}
	if u.requests != nil {
		if ok, failed = u.try(ctx); failed != nil {
			u.report(failed) // now: without --exit the end may be far
		}
		if u.exit {
			cancel()
		}
	}
	if !u.exit && u.format != "json" {
		u.hints()
	}
	err := <-ended
	if errors.Is(err, run.ErrLeft) {
		return errSilent // what is left was said
	}
	if err := u.explain(err); err != nil {
		return err
	}
	if failed != nil || u.exit && !ok {
		return errSilent
	}
	return nil
}

// watched is an output that calls broken when nobody reads it any more.
type watched struct {
	io.Writer
	broken func()
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		w.broken()
	}
	return n, err
}

// event shows what happens; one goroutine at a time calls it.
func (u *upping) event(e run.Event) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if e.Status != nil {
		u.status[e.Deployment] = e.Status
	}
	if e.Kind == run.EventDied || e.Kind == run.EventDrained {
		delete(u.status, e.Deployment)
	}
	if e.Kind == run.EventDecision {
		if u.trying {
			u.decisions = append(u.decisions, *e.Decision)
			select {
			case u.arrived <- struct{}{}:
			default:
			}
			if u.format != "json" {
				return // the table shows it
			}
		}
	}
	if u.format == "json" {
		_ = u.printLine(e)
	} else {
		u.show(e)
	}
	if e.Kind == run.EventUp {
		u.once.Do(func() { close(u.ready) })
	}
}

func (u *upping) show(e run.Event) {
	if e.Kind == run.EventStep {
		if u.progress == nil {
			u.progress = u.cli.progress(e.Deployment)
		}
		u.progress.text(e.Text)
		return
	}
	if u.progress != nil {
		u.progress.end()
		u.progress = nil
	}
	stamp := clock(e.Time)
	switch e.Kind {
	case run.EventDecision:
		fmt.Fprintln(u.out, decisionText(e.Decision))
	case run.EventReady:
		s := e.Status
		fmt.Fprintf(u.out, "%s ready  %s as %s on %s, target %s, tier %s, network %s, level %s\n%13s image %s, program %s, revision %d\n", stamp, e.Deployment, s.Instance,
			addresses(s), runsOn(s), s.Tier, network(s), s.Level, "", short(s.ImageDigest), short(s.Program), s.Revision)
		u.dryRun(s)
	case run.EventNotice:
		fmt.Fprintf(u.out, "%s note   %s is %s\n", stamp, e.Deployment, e.Text)
	case run.EventApplied:
		what := map[run.Change]string{run.ChangeProgram: "the program was replaced", run.ChangeImage: "a new image took over",
			run.ChangeLaunch: "a new instance took over", run.ChangeNone: "nothing to change", run.ChangeStart: "started"}[e.Change]
		fmt.Fprintf(u.out, "%s change %s: %s (%.1f ms), revision %d, image %s\n", stamp, e.Deployment, what, e.TookMillis, e.Status.Revision, short(e.Status.ImageDigest))
		u.dryRun(e.Status)
		if e.Text != "" {
			fmt.Fprintf(u.out, "%13s %s\n", "", e.Text)
		}
	case run.EventLevel:
		if e.Text != "" {
			fmt.Fprintf(u.out, "%s level  %s: %s: %s (%.1f ms)\n", stamp, e.Deployment, e.Level.Level, e.Text, e.TookMillis)
			return
		}
		fmt.Fprintf(u.out, "%s level  %s: %s instead of %s (%.1f ms): %s\n", stamp, e.Deployment, e.Level.Level, e.Level.Before, e.TookMillis, plain(why(&e.Level.Standing)))
		if b := bridge(&e.Level.Standing); b != "" {
			fmt.Fprintf(u.out, "%13s its image is %s\n", "", plain(b))
		}
	case run.EventRefused:
		still := "what ran before still runs"
		if len(u.status) == 0 {
			still = "nothing runs at this moment"
		}
		fmt.Fprintf(u.err, "%s refused; %s\n", stamp, still)
		if len(e.Errors) > 0 {
			printErrors(u.err, "error", e.Errors)
		} else {
			fmt.Fprintln(u.err, plain(e.Text))
		}
	case run.EventDied:
		fmt.Fprintf(u.err, "%s died   %s: %s\n", stamp, e.Deployment, plain(e.Text))
	case run.EventFailed:
		fmt.Fprintf(u.err, "%s failed %s: %s\n", stamp, e.Deployment, plain(e.Text))
	case run.EventDrained:
		fmt.Fprintf(u.out, "%s ended  %s\n", stamp, e.Deployment)
	}
}

// try makes the requests against the first address of the only deployment. That somebody
// interrupts it is no error.
func (u *upping) try(ctx context.Context) (bool, error) {
	u.mu.Lock()
	var at string
	var ids identities
	for name, s := range u.status {
		if len(s.Listen) > 0 && len(u.status) == 1 {
			at, ids = address(s), u.identities[name]
		}
	}
	u.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return false, nil
	case at == "":
		return false, errors.New("--try needs exactly one workload")
	}
	results := u.requests.Run(ctx, at, ids, u.lookup)
	if ctx.Err() != nil {
		return false, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trying, u.decisions = false, nil
	if u.format == "json" {
		return passed(results), u.printLine(map[string]any{"event": "tried", "results": results})
	}
	u.printResults(results)
	return passed(results), nil
}

// lookup waits for the record of a decision in the stream.
func (u *upping) lookup(ctx context.Context, match func(*audit.Record) bool) (audit.Record, bool) {
	late := time.NewTimer(3 * time.Second)
	defer late.Stop()
	for {
		u.mu.Lock()
		for i := range u.decisions {
			d := &u.decisions[i]
			r := audit.Record{ID: d.ID, Time: d.Time.UnixNano(), Stage: d.Stage, Source: d.Source, Reason: d.Reason,
				Rule: abi.Rule{ID: d.Rule, Line: d.Line}}
			if match(&r) {
				u.mu.Unlock()
				return r, true
			}
		}
		u.mu.Unlock()
		select {
		case <-u.arrived:
		case <-late.C:
			return audit.Record{}, false
		case <-ctx.Done():
			return audit.Record{}, false
		}
	}
}

// dryRun says that a policy is not enforced.
func (u *upping) dryRun(s *tender.Status) {
	if s.DryRun == tender.DryRunPolicy {
		fmt.Fprintf(u.out, "%13s %s (lorica dryrun report %s)\n", "", enforcement(s), s.Workload)
	}
}

// hints says what one can do now.
func (u *upping) hints() {
	u.mu.Lock()
	defer u.mu.Unlock()
	fmt.Fprintln(u.out)
	shown := "Decisions follow."
	for name, s := range u.status {
		u.printHints(s, u.identities[name])
		if len(s.Records) > 0 && !slices.Contains(s.Records, tender.RecordsChannel) {
			shown = "Decisions follow, but for those of " + name + ": they go to " + strings.Join(s.Records, " and ") + "."
		}
	}
	fmt.Fprintln(u.out, shown, "Save a change of the files and it is taken over; Ctrl-C drains and ends.")
}

// firstPath is one that a route has, as far as one can tell without parameters.
func firstPath(p *api.SecurityPolicy) string {
	for _, r := range p.Routes {
		if (r.Method == "GET" || r.Method == "*") && !strings.Contains(r.Path, "{") {
			return r.Path
		}
	}
	return "/"
}

func (u *upping) printHints(s *tender.Status, ids identities) {
	fmt.Fprintln(u.out, "Try:")
	by := try.Reach{Base: "http://" + address(s), Command: os.Args[0], Documents: u.path}
	if run.Secured(ids.deployment.Policy) {
		by.Base, by.Authority = "https://"+address(s), fmt.Sprintf(`"$(%s dev ca)"`, by.Command)
	}
	send := "GET " + firstPath(ids.deployment.Policy)
	f, list := &try.File{}, []try.Request{{Send: send}}
	switch {
	case u.requests != nil:
		f, list = u.requests, u.requests.Requests
	case len(ids.issuers()) == 1:
		f.Users = map[string]try.User{"ada": {Token: &try.Token{}}}
		list = append(list, try.Request{As: "ada", Send: send})
	}
	shown := 0
	for _, r := range list {
		if line, ok := f.Curl(by, r); ok && shown < 3 {
			fmt.Fprintf(u.out, "  %s\n", line)
			shown++
		}
	}
	fmt.Fprintf(u.out, "  %s ps\n  %s inspect %s\n", os.Args[0], os.Args[0], s.Workload)
}
