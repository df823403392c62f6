package way

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leftovers lists the tables and interfaces that links have in the namespace of th.
func leftovers(t *testing.T, th *thread) (list []string) {
	t.Helper()
	var err error
	th.do(func() {
		var n *netlink
		if n, err = openNetlink(unix.NETLINK_NETFILTER); err != nil {
			return
		}
		defer n.close()
		if list, err = n.tables(); err != nil {
			return
		}
		var here []net.Interface
		here, err = net.Interfaces()
		for _, i := range here {
			if ours(i.Name) {
				list = append(list, "interface "+i.Name)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func checkLeftovers(t *testing.T, th *thread, want ...string) {
	t.Helper()
	if got := leftovers(t, th); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

func TestAClosedLinkLeavesNothing(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	var r *Routed
	var err error
	m.do(func() {
		if r, err = OpenRouted("acme/shop", Spec{MTU: testMTU, Raw: true}); err == nil {
			err = r.Admit(everyDoor)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	checkLeftovers(t, m.thread, "interface lorica0", "lorica0", "lorica0-guard")
	// What an image's QEMU may do with its descriptor.
	if err := unix.IoctlSetInt(int(r.File().Fd()), unix.TUNSETPERSIST, 1); err != nil {
		t.Fatal(err)
	}
	m.do(func() { err = errors.Join(r.Close(), r.Close()) })
	if err != nil {
		t.Error(err)
	}
	checkLeftovers(t, m.thread)
	if err := r.Admit(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v", err)
	}
	if l, err := r.Listen(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", l, err)
	}
}

// holdRouted is a tender that is killed.
func holdRouted() error {
	r, err := OpenRouted("held", Spec{MTU: testMTU, Raw: true})
	if err != nil {
		return err
	}
	if err := r.Admit(everyDoor); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// killed starts a tender in a namespace, kills it and returns the namespace.
func killed(t *testing.T, role string) *thread {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the tender says %q: %v", line, err)
	}
	th := newThread()
	ready := make(chan error)
	go th.live(ready, func() error {
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		return unix.Setns(ns, unix.CLONE_NEWNET)
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(th.close)
	checkLeftovers(t, th, "interface lorica0", "lorica0", "lorica0-guard")
	return th
}

// The doors of a tender that is killed are gone with it. What guards its interface stays
// until the next tender looks.
func TestAKilledTenderLeavesNoDoor(t *testing.T) {
	if openPrivate(t) == nil {
		return
	}
	for _, role := range []string{"routed", "routed-unowned"} {
		th := killed(t, role)
		for deadline := time.Now().Add(patience); slices.Contains(leftovers(t, th), "interface lorica0"); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the interface is still there")
			}
		}
		if role == "routed" {
			checkLeftovers(t, th, "lorica0-guard")
		} else {
			checkLeftovers(t, th, "lorica0", "lorica0-guard")
		}
		// The next one has the same number, and sweeps what others left as well.
		var r *Routed
		var err error
		th.do(func() {
			if r, err = OpenRouted("next", Spec{MTU: testMTU, Raw: true}); err == nil {
				err = r.tables.transact(func() ([]message, error) {
					return slices.Concat((&table{name: "lorica7"}).replace(), (&table{name: "lorica7-guard"}).replace(), (&table{name: "loricas"}).replace()), nil
				})
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		checkLeftovers(t, th, "interface lorica0", "lorica0-guard", "lorica7", "lorica7-guard", "loricas")
		th.do(func() {
			r.Close()
			if r, err = OpenRouted("next", Spec{MTU: testMTU, Raw: true}); err == nil {
				err = r.Close()
			}
		})
		if err != nil {
			t.Error(err)
		}
		checkLeftovers(t, th, "loricas")
	}
}

// What a client still says to an image whose tender was killed is answered, when that is
// swept away: the kernel does not send it on to nobody.
func TestClientsOfTheKilledAreAnswered(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	r, _ := m.open(t, "image")
	r.flags = 0 // of no owner: this process lives on
	m.admit(t, r, everyDoor...)
	other, _ := m.open(t, "other") // without any, the kernel translates nothing at all
	m.admit(t, other, Door{netip.MustParseAddrPort("0.0.0.0:444"), 8443})
	open := []*visit{checkCall(t, m.client, "10.1.0.1:443", "image"), checkCall(t, m.client, "[2001:db8:1::1]:443", "image"), checkCall(t, m.thread, "127.0.0.1:443", "image")}
	var err error
	m.do(func() {
		err = r.route.do(message{kind: unix.RTM_DELLINK, body: ifinfo(r.index, 0), what: "the interface"})
		err = errors.Join(err, Sweep(), Sweep())
	})
	if err != nil {
		t.Fatal(err)
	}
	checkLeftovers(t, m.thread, "interface lorica1", "lorica1", "lorica1-guard")
	for i, v := range open {
		if err := v.says("hello"); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
}

// holdUnowned is a tender under a kernel that knows no owner of a table.
func holdUnowned() error {
	r := &Routed{}
	if err := r.open("held", Spec{MTU: testMTU, Raw: true}); err != nil {
		return err
	}
	if err := r.Admit(everyDoor); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// Addresses that the machine has already are left to it.
func TestAddressesThatAreTaken(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	var err error
	m.do(func() {
		var n *netlink
		if n, err = openNetlink(unix.NETLINK_ROUTE); err != nil {
			return
		}
		defer n.close()
		var i *net.Interface
		if i, err = net.InterfaceByName("eth0"); err == nil {
			err = n.do(newAddress(int32(i.Index), netip.MustParsePrefix("169.254.76.3/16")), newAddress(int32(i.Index), netip.MustParsePrefix("fd6c:6f72:6963:62::5/64")))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	r, _ := m.open(t, "a")
	if got, want := fmt.Sprint(r.Link().Addrs, r.Link().Hosts), "[169.254.76.10/30 fd6c:6f72:6963:62::a/126] [169.254.76.9 fd6c:6f72:6963:62::9]"; got != want {
		t.Errorf("the link has %s, want %s", got, want)
	}
	m.admit(t, r, everyDoor...)
	checkLeftovers(t, m.thread, "interface lorica2", "lorica2", "lorica2-guard")
	checkCall(t, m.client, "10.1.0.1:443", "a")
}

// The kernel has a last number for chains of this kind, and then puts newer ones first.
func TestDoorsChangeBeyondTheLastNumber(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	for i, name := range []string{"a", "b", "c"} {
		r, _ := m.open(t, name)
		if i == 0 { // as after many others
			last := table{name: "lorica200", chains: []chain{{name: "clients", kind: "nat", hook: unix.NF_INET_PRE_ROUTING, priority: priorityLeast}}}
			var err error
			m.do(func() { err = r.tables.transact(func() ([]message, error) { return last.replace(), nil }) })
			if err != nil {
				t.Fatal(err)
			}
		}
		m.admit(t, r, everyDoor...)
		checkCall(t, m.client, "10.1.0.1:443", name)
	}
}

func TestEachGenerationIsBeforeTheLast(t *testing.T) {
	r := &Routed{device: &device{name: "lorica2"}}
	at := func(table string, hook uint32, priority int32) placed {
		return placed{table: table, hook: hook, priority: priority}
	}
	for name, c := range map[string]struct {
		list []placed
		want int32
	}{
		"the first":          {nil, priorityNAT},
		"before another":     {[]placed{at("lorica0", 0, -110)}, -111},
		"before the lowest":  {[]placed{at("lorica0", 0, -110), at("lorica9", 0, -150), at("lorica1", 0, -111)}, -151},
		"its own":            {[]placed{at("lorica2", 0, -150)}, priorityNAT},
		"another hook":       {[]placed{at("lorica0", 3, -150)}, priorityNAT},
		"somebody else's":    {[]placed{at("docker", 0, -150), at("loricax", 0, -150)}, priorityNAT},
		"one that is later":  {[]placed{at("lorica0", 0, 0)}, priorityNAT},
		"the last there is":  {[]placed{at("lorica0", 0, priorityLeast)}, priorityLeast},
		"one before is last": {[]placed{at("lorica0", 0, priorityLeast+1)}, priorityLeast},
	} {
		if got := r.first(c.list, 0); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// A transaction is about the tables that were looked at: where they have changed since, it
// looks again.
func TestTransactionsAreOfOneMoment(t *testing.T) {
	if openPrivate(t) == nil {
		return
	}
	th := newNamespace(t, func() error { return nil })
	var n [2]*netlink
	var err error
	th.do(func() {
		for i := range n {
			if n[i], err = openNetlink(unix.NETLINK_NETFILTER); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	make := func(n *netlink, name string) error {
		return n.transact(func() ([]message, error) { return (&table{name: name}).replace(), nil })
	}
	asked := 0
	err = n[0].transact(func() ([]message, error) {
		if asked++; asked < 3 {
			if err := make(n[1], fmt.Sprint("other", asked)); err != nil {
				return nil, err
			}
		}
		return (&table{name: fmt.Sprint("own", asked)}).replace(), nil
	})
	if err != nil || asked != 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	checkLeftovers(t, th, "other1", "other2", "own3")
	if err := n[0].transact(func() ([]message, error) { return nil, make(n[1], "always") }); err != nil {
		t.Errorf("nothing to change: %v", err)
	}
	err = n[0].transact(func() ([]message, error) { return (&table{name: "own4"}).replace(), make(n[1], "always") })
	if err == nil || !strings.Contains(err.Error(), "all the time") {
		t.Errorf("%v", err)
	}
	// All of it or nothing: the last message is refused, in words.
	err = n[0].transact(func() ([]message, error) {
		return append((&table{name: "own5"}).replace(), (&table{name: "nosuch"}).remove(0)...), nil
	})
	if !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "removing the table nosuch") {
		t.Errorf("%v", err)
	}
	checkLeftovers(t, th, "always", "other1", "other2", "own3")
}

func TestObstaclesAreNamed(t *testing.T) {
	m := newMachine(t)
	if m == nil {
		return
	}
	open := func() *Routed {
		r, _ := m.open(t, "a")
		return r
	}
	// add makes a chain that lets pass what it does not know (1), or drops it (0).
	add := func(name string, hook, policy uint32) {
		t.Helper()
		var err error
		m.do(func() {
			var n *netlink
			if n, err = openNetlink(unix.NETLINK_NETFILTER); err != nil {
				return
			}
			defer n.close()
			c := nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, name, attributes{}.text(unix.NFTA_CHAIN_TABLE, "firewall").text(unix.NFTA_CHAIN_NAME, name).
				nest(unix.NFTA_CHAIN_HOOK, attributes{}.be32(unix.NFTA_HOOK_HOOKNUM, hook).be32(unix.NFTA_HOOK_PRIORITY, 0)).
				be32(unix.NFTA_CHAIN_POLICY, policy).text(unix.NFTA_CHAIN_TYPE, "filter"))
			table := nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, "firewall", attributes{}.text(unix.NFTA_TABLE_NAME, "firewall"))
			err = n.transact(func() ([]message, error) { return []message{table, c}, nil })
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var made error
	m.do(func() { // an interface that nobody can come in by
		var n *netlink
		if n, made = openNetlink(unix.NETLINK_ROUTE); made == nil {
			defer n.close()
			made = n.do(message{kind: unix.RTM_NEWLINK, flags: unix.NLM_F_CREATE, body: ifinfo(0, 0), what: "an interface",
				attrs: attributes{}.text(unix.IFLA_IFNAME, "down0").nest(unix.IFLA_LINKINFO, attributes{}.text(unix.IFLA_INFO_KIND, "veth"))})
		}
	})
	if made != nil {
		t.Fatal(made)
	}
	add("INPUT", unix.NF_INET_LOCAL_IN, 0)
	add("OPEN", unix.NF_INET_FORWARD, 1)
	if got := open().Notes(netip.IPv4Unspecified()); len(got) != 0 {
		t.Errorf("there are %q", got)
	}
	add("FORWARD", unix.NF_INET_FORWARD, 0)
	var err error
	m.do(func() {
		err = errors.Join(setSysctl("ipv4/conf/eth0/forwarding", "0"), setSysctl("ipv6/conf/all/forwarding", "0"))
	})
	if err != nil {
		t.Fatal(err)
	}
	const v4, v6, both = "come in by eth0 are not routed: net.ipv4.conf.eth0.forwarding is 0", "net.ipv6.conf.all.forwarding is 0", "the chain FORWARD of the table firewall"
	r := open()
	for listen, want := range map[string][]string{
		"0.0.0.0": {v4, v6, both}, "::": {v4, v6, both}, "10.1.0.1": {v4, both}, "2001:db8::1": {v6, both}, "127.0.0.1": nil, "::1": nil,
	} {
		got := r.Notes(netip.MustParseAddr(listen))
		for _, w := range want {
			if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, w) }) {
				t.Errorf("%s: %q is not in %q", listen, w, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %q", listen, got)
		}
	}
}

func TestAProbeTriesAndLeavesNothing(t *testing.T) {
	if openPrivate(t) == nil {
		return
	}
	here := newNamespace(t, func() error { return nil })
	var r Report
	here.do(func() { r = Probe() })
	for _, f := range r.Findings() {
		if !f.OK || f.Detail == "" || f.Fix != "" {
			t.Errorf("%+v", f)
		}
	}
	checkLeftovers(t, here)
}

func TestFindingsSayWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
	}{
		{"routed network", fmt.Errorf("way: a routed network: the table lorica0: %w", unix.EOPNOTSUPP)},
		{"private network", fmt.Errorf("way: a private network: %s: %w", tunDevice, unix.EACCES)},
		{"nested network", fmt.Errorf("way: a nested network: user and network namespaces: %w", unix.EPERM)},
	} {
		f := finding(c.name, "good", c.err)
		if f.OK || f.Fix == "" && c.name != "private network" || strings.HasPrefix(f.Detail, "way: ") || !strings.Contains(f.Detail, c.name) {
			t.Errorf("%+v", f)
		}
	}
}
