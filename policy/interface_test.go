package policy_test

import (
	"strings"
	"testing"

	"lorica.dev/lorica/api"
)

const onTap = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: site, labels: {app: site}}
spec:
  app: {handler: {module: ./api}}
  listen: [{name: web, port: 8080}]
  network: NETWORK
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: site}
spec:
  selector: {matchLabels: {app: site}}
  default: {network: Allow, authorization: Allow}
`

func TestInterfaces(t *testing.T) {
	for written, want := range map[string]string{
		"direct":                          "",
		"{mode: direct}":                  "",
		"{mode: socket}":                  "",
		"{mode: direct, interface: tap7}": "tap7: dhcp, slaac",
		"{mode: direct, interface: a23456789012345, addresses: [slaac]}":                                                          "a23456789012345: slaac",
		"{mode: direct, interface: tap7, addresses: [192.0.2.10/24]}":                                                             "tap7: 192.0.2.10/24",
		"{mode: direct, interface: tap7, addresses: [10.0.0.1/32]}":                                                               "tap7: 10.0.0.1/32",
		"{gateway: 192.0.2.1, mode: direct, interface: tap7, addresses: [dhcp, slaac, 192.0.2.10/24, \"2001:db8::10/64\"]}":       "tap7: dhcp, slaac, 192.0.2.10/24, 2001:db8::10/64, by 192.0.2.1",
		"{mode: direct, interface: tap7, addresses: [192.0.2.10/24, \"2001:db8::10/64\"], gateway: [192.0.2.1, \"2001:db8::1\"]}": "tap7: 192.0.2.10/24, 2001:db8::10/64, by 192.0.2.1, by 2001:db8::1",
	} {
		b, err := parse("", strings.Replace(onTap, "NETWORK", written, 1))
		if err != nil {
			t.Errorf("%s: %v", written, err)
			continue
		}
		w := b.Deployments[0].Workload
		got, address := "", "127.0.0.1"
		if w.Interface != nil {
			got, address = w.Interface.String(), "0.0.0.0"
		}
		if got != want || w.Listen[0].Address.String() != address || w.NetworkPos.Line != 7 {
			t.Errorf("%s: %q on %v, at %v", written, got, w.Listen[0].Address, w.NetworkPos)
		}
		if err := b.Retarget("", api.NetSocket); (err != nil) != (want != "") {
			t.Errorf("%s: with sockets instead: %v", written, err)
		}
	}
}

// Where an image cannot be is said with the place.
func TestMistakesOfInterfaces(t *testing.T) {
	at := func(written string) string { return strings.Replace(onTap, "NETWORK", written, 1) }
	for _, c := range []struct{ name, text, want string }{
		{"a word that there is not", at("bridged"), "site.yaml:7:12: "},
		{"no mode", at("{interface: tap7}"), "site.yaml:7:12: spec.network.mode is missing"},
		{"another mode", at("{mode: bridge, interface: tap7}"), `site.yaml:7:19: spec.network.mode: "bridge" is unknown`},
		{"another field", at("{mode: direct, device: tap7}"), "site.yaml:7:27: spec.network.device is unknown"},
		{"sockets", at("{mode: socket, interface: tap7}"), "site.yaml:7:38: spec.network.interface is not for sockets"},
		{"a long name", at("{mode: direct, interface: a234567890123456}"), "site.yaml:7:38: spec.network.interface cannot be"},
		{"a name of a folder", at("{mode: direct, interface: ../tap7}"), "site.yaml:7:38: spec.network.interface cannot be"},
		{"a pattern of the kernel", at("{mode: direct, interface: \"tap%d\"}"), "site.yaml:7:38: spec.network.interface cannot be"},
		{"addresses of a link", at("{mode: direct, addresses: [dhcp]}"), "site.yaml:7:38: spec.network.addresses without an interface"},
		{"a gateway of a link", at("{mode: direct, gateway: 192.0.2.1}"), "site.yaml:7:36: spec.network.gateway without an interface"},
		{"no address", at("{mode: direct, interface: tap7, addresses: []}"), "site.yaml:7:55: spec.network.addresses is empty"},
		{"a word for none", at("{mode: direct, interface: tap7, addresses: [dhcp6]}"), `site.yaml:7:56: spec.network.addresses: "dhcp6" is unknown`},
		{"a number", at("{mode: direct, interface: tap7, addresses: [7]}"), "site.yaml:7:56: spec.network.addresses must be text"},
		{"a word twice", at("{mode: direct, interface: tap7, addresses: [dhcp, dhcp]}"), "site.yaml:7:62: spec.network.addresses has dhcp twice"},
		{"no length", at("{mode: direct, interface: tap7, addresses: [192.0.2.10]}"), "site.yaml:7:56: spec.network.addresses: \"192.0.2.10\" is unknown"},
		{"a network", at("{mode: direct, interface: tap7, addresses: [192.0.2.0/24]}"), "site.yaml:7:56: spec.network.addresses: 192.0.2.0/24 is no address"},
		{"loopback", at("{mode: direct, interface: tap7, addresses: [127.0.0.2/8]}"), "is no address that one image can have"},
		{"everybody", at("{mode: direct, interface: tap7, addresses: [224.0.0.1/24]}"), "is no address that one image can have"},
		{"IPv4 in disguise", at("{mode: direct, interface: tap7, addresses: [\"::ffff:192.0.2.10/120\"]}"), "IPv4 in disguise"},
		{"two of a family", at("{mode: direct, interface: tap7, addresses: [192.0.2.10/24, 192.0.2.11/24]}"), "site.yaml:7:71: spec.network.addresses: 192.0.2.11/24 is the second"},
		{"a gateway elsewhere", at("{mode: direct, interface: tap7, addresses: [192.0.2.10/24], gateway: 192.0.3.1}"), "site.yaml:7:12: spec.network.gateway: 192.0.3.1 is not in"},
		{"itself as its gateway", at("{mode: direct, interface: tap7, addresses: [192.0.2.10/24], gateway: 192.0.2.10}"), "spec.network.gateway: 192.0.2.10 is not in"},
		{"a gateway of none", at("{mode: direct, interface: tap7, gateway: 192.0.2.1}"), "spec.network.gateway: 192.0.2.1 is not in"},
		{"two gateways", at("{mode: direct, interface: tap7, addresses: [192.0.2.10/24], gateway: [192.0.2.1, 192.0.2.2]}"), "192.0.2.2 is the second of its family"},
		{"an address to listen at", strings.Replace(at("{mode: direct, interface: tap7}"), "port: 8080", "port: 8080, address: 127.0.0.1", 1), "site.yaml:6:12: spec.listen.address is not for an image on an interface"},
		{"a proxy", strings.Replace(at("{mode: direct, interface: tap7}"), "{handler: {module: ./api}}", "{proxy: {upstream: \"http://127.0.0.1:9000\"}}", 1), "site.yaml:7:12: a proxy cannot be on an interface"},
		{"passwords in the clear", strings.Replace(base, "  app:", "  network: {mode: direct, interface: tap7}\n  app:", 1), "would cross the network in the clear on tap7"},
	} {
		_, err := parse("", c.text)
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "shop.yaml", "site.yaml"), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
