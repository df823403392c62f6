package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/internal/notrun"
)

const rsyslogConf = `global(DefaultNetstreamDriver="gtls" DefaultNetstreamDriverCAFile="DIR/ca.pem" DefaultNetstreamDriverCertFile="DIR/server.pem"
  DefaultNetstreamDriverKeyFile="DIR/server.key" workDirectory="DIR" net.enabledns="off")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/certvalid")
input(type="imtcp" port="LOGS" address="127.0.0.1")
template(name="parts" type="string" string="%protocol-version% %syslogfacility-text%.%syslogseverity-text% %hostname% %app-name% %procid% %msgid% %structured-data%|%msg%\n")
action(type="omfile" file="DIR/out" template="parts")
`

// A syslog server of the field reads what an image sends, and takes it apart as it was
// put together.
func TestARealSyslogServer(t *testing.T) {
	path, err := exec.LookPath("rsyslogd")
	if err != nil {
		path = "/usr/sbin/rsyslogd"
	}
	drivers, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so")
	if _, err := os.Stat(path); err != nil || len(drivers) == 0 {
		notrun.Say(t, "records read by rsyslogd", "it is not here, or not with TLS: apt-get install rsyslog rsyslog-gnutls")
		return
	}
	u := newUser(t)
	ca := certtest.New(t, "logs")
	server, client := ca.Server(t, nil), ca.Client(t, "image", nil)
	port, logs := freePort(t), freePort(t)
	fill := strings.NewReplacer("PORT", port, "LOGS", logs)
	dir := u.project(map[string]string{"policy.yaml": fill.Replace(sunkPolicy), "workload.yaml": fill.Replace(sunkWorkload), "public/index.html": "hello\n",
		"ca.pem": string(ca.PEM), "client.pem": string(client.Chain), "client.key": string(client.Key), "server.pem": string(server.Chain), "server.key": string(server.Key)})
	conf := filepath.Join(dir, "rsyslog.conf")
	write(t, conf, strings.NewReplacer("DIR", dir, "LOGS", logs).Replace(rsyslogConf))
	var said bytes.Buffer
	cmd := exec.Command(path, "-n", "-f", conf, "-i", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the end of 'up', whose image delivers what waits
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	u.up(dir)
	const odd = `/a%22b%5Dc%C3%A9` // as the canonical path has it
	a, b := get(t, "127.0.0.1:"+port, "/", ""), get(t, "127.0.0.1:"+port, odd, "")
	if a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	var out string
	eventually(t, "rsyslogd has written both", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "out"))
		out = string(text)
		return strings.Contains(out, a.decision) && strings.Contains(out, b.decision)
	})
	for i, id := range []string{a.decision, b.decision} {
		line := ""
		for l := range strings.Lines(out) {
			if strings.Contains(l, id) {
				line = l
			}
		}
		if !strings.HasPrefix(line, "1 ") || !strings.Contains(line, " sunk lorica ") || !strings.Contains(line, fmt.Sprintf(` decision [meta sequenceId="%d"][lorica@32473 tenant="acme" workload="sunk" seq="%d" id="%s"`, i+1, i+1, id)) {
			t.Errorf("rsyslogd read it as %q", line)
		}
	}
	if !strings.Contains(out, `path="`+odd+`"`) || !strings.Contains(out, "|\ufeffAllow GET "+odd+" from 127.0.0.1 by pages (policy.yaml:7)\n") {
		t.Errorf("the odd path is %q", out)
	}
}
