package kernel

// The real-time clock, where the wall clock starts from. It counts whole seconds, and
// those of QEMU do not begin when those of its host do: SetClock is for whoever knows
// better, and again and again, since the rate of the time stamp counter is known to some
// parts in ten thousand only.

// The MC146818.
const (
	rtcIndex, rtcData = 0x70, 0x71
	rtcStatusA        = 0x0a
	rtcStatusB        = 0x0b
	rtcUpdating       = 1 << 7 // of status A
	rtcBinary         = 1 << 2 // of status B
	rtcPatience       = 1 << 16
	noDevice          = 0xff // what a port reads at which there is nothing
)

//go:nosplit
func startRTC() {
	if rtc(rtcStatusA) == noDevice {
		die(exitBoot, "no wall clock: give the machine a real-time clock", noValue)
	}
	wallStart = realTime()*second + second/2 - nanotime()
}

//go:nosplit
func rtc(register uint64) uint64 {
	outb(rtcIndex, register)
	return inb(rtcData)
}

//go:nosplit
func rtcField(register uint64, binary bool) uint64 {
	v := rtc(register)
	if binary {
		return v
	}
	return v>>4*10 + v&15
}

// realTime returns the seconds since 1970 that the real-time clock shows.
//
//go:nosplit
func realTime() uint64 {
	for n := 0; n < rtcPatience && rtc(rtcStatusA)&rtcUpdating != 0; n++ {
	}
	b := rtc(rtcStatusB)&rtcBinary != 0
	sec, min, hour := rtcField(0, b), rtcField(2, b), rtcField(4, b)
	return civil(2000+rtcField(9, b), rtcField(8, b), rtcField(7, b))*86400 + hour*3600 + min*60 + sec
}

// civil returns the days from 1970 to a date of the Gregorian calendar. Years are
// counted from March: leap days come last.
//
//go:nosplit
func civil(year, month, day uint64) uint64 {
	if month <= 2 {
		year--
		month += 12
	}
	const toMarch1970 = 719468 // days from 0000-03-01 to 1970-01-01, less one for day
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - toMarch1970
}
