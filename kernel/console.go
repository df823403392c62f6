package kernel

// The console is the first serial port: output only. It is how the kernel says
// why it died, so it needs nothing but the port.

// A 16550 UART at the address of COM1 (National Semiconductor PC16550D).
const (
	com1     = 0x3f8
	uartFIFO = com1 + 2 // FIFO control
	uartLine = com1 + 5 // line status

	uartFIFOOn = 1
	uartEmpty  = 1 << 5 // the transmitter takes uartRoom bytes
	uartRoom   = 16

	// uartPatience bounds the wait for a device that does not send.
	uartPatience = 1 << 20
)

// QEMU's isa-debug-exit: a write of v ends the machine with status 2*v+1.
const debugExit = 0xf4

// Exit codes. Those of the image itself are 0 to maxExit.
const (
	maxExit     = 63
	exitTrap    = 64 // a trap in the kernel, or one that the image does not handle
	exitMemory  = 65 // out of memory
	exitEntropy = 66 // no source of entropy
	exitBoot    = 67 // bad boot information, too little memory, or a machine without what the kernel needs
)

var (
	uartFree int // bytes that the transmitter takes without another look
	lastByte byte
)

//go:nosplit
func initConsole() {
	outb(uartFIFO, uartFIFOOn)
	lastByte = '\n'
}

//go:nosplit
func putc(c byte) {
	if uartFree == 0 {
		for i := 0; inb(uartLine)&uartEmpty == 0; i++ {
			if i == uartPatience {
				return // lost
			}
		}
		uartFree = uartRoom
	}
	uartFree--
	lastByte = c
	outb(com1, uint64(c))
}

//go:nosplit
func puts(s string) {
	for i := 0; i < len(s); i++ {
		putc(s[i])
	}
}

//go:nosplit
func putHex(v uint64) {
	puts("0x")
	shift := 60
	for shift > 0 && v>>uint(shift) == 0 {
		shift -= 4
	}
	for ; shift >= 0; shift -= 4 {
		d := byte(v >> uint(shift) & 15)
		if d > 9 {
			d += 'a' - '0' - 10
		}
		putc('0' + d)
	}
}

//go:nosplit
func putDecimal(v uint64) {
	d := uint64(1)
	for v/d >= 10 {
		d *= 10
	}
	for ; d > 0; d /= 10 {
		putc('0' + byte(v/d%10))
	}
}

// say begins a line of the kernel.
//
//go:nosplit
func say(s string) {
	if lastByte != '\n' {
		putc('\n')
	}
	puts("lorica kernel: ")
	puts(s)
}

// noValue is what die is given where there is nothing to add to its text.
const noValue = ^uint64(0)

// dying prints why and ends the machine.
//
//go:nosplit
func dying(code uint64, text string, value uint64) {
	say(text)
	if value != noValue {
		putHex(value)
	}
	putc('\n')
	powerOff(code)
}

//go:nosplit
func powerOff(code uint64) {
	outl(debugExit, code)
	stop()
}

// exitImage ends the machine with a status of the image.
//
//go:nosplit
func exitImage(code uint64) {
	if code != 0 {
		say("the image exited with code ")
		putDecimal(code)
		putc('\n')
	}
	powerOff(min(code, maxExit))
}
