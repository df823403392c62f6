package card

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/virtio"
)

func TestFramesBecomeTheDrivers(t *testing.T) {
	for from, to := range map[direct.Segmentation]virtio.Segmentation{direct.Whole: virtio.Whole, direct.TCP4: virtio.TCP4, direct.TCP6: virtio.TCP6} {
		parts := [][]byte{{1}, {2, 3}}
		got := frame(&direct.Frame{Parts: parts, Checksum: true, ChecksumStart: 4, ChecksumOffset: 5, Segmentation: from, SegmentSize: 6, HeaderSize: 7})
		want := &virtio.Frame{Parts: parts, Checksum: true, ChecksumStart: 4, ChecksumOffset: 5, Segmentation: to, SegmentSize: 6, HeaderSize: 7}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// What the driver receives is taken as it is.
var _ direct.Packet = (*virtio.Packet)(nil)

func TestWithoutAMachineThereIsNoCard(t *testing.T) {
	link := launch.Link{Addrs: []netip.Prefix{netip.MustParsePrefix("169.254.76.2/30")}, Hosts: []netip.Addr{netip.MustParseAddr("169.254.76.1")}}
	if err := New().Open(&launch.Params{Link: link}); err == nil || !strings.Contains(err.Error(), "does not run as a microVM") {
		t.Error(err)
	}
}
