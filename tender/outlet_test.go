package tender

import (
	"net"
	"testing"

	"lorica.dev/lorica/abi/egress"
)

type shut struct{}

func (shut) serve() error           { return net.ErrClosed }
func (shut) enforce(egress.Section) {}
func (shut) end()                   {}

// What makes the connections of an image is closed once it has ended: that is not what it
// ended by, though it was killed.
func TestAnOutletThatIsClosedIsNoFailure(t *testing.T) {
	i := &instance{outlet: shut{}}
	i.connect()
	i.readers.Wait()
	if i.failure != nil {
		t.Error(i.failure)
	}
}
