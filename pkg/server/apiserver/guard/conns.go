package guard

import (
	"net"
	"net/netip"
	"sync"
)

// Listen bounds how many connections each address has open. It closes more at once, before anything is read from them. Addresses of this
// host have no bound: on it are the cluster's own components, and who is root there needs no connections. Of an IPv6 address the first
// half counts, which is the network that one is given. There is no bound when most is 0.
func Listen(l net.Listener, most int, ours func(netip.Addr) bool) net.Listener {
	if most == 0 {
		return l
	}
	return &listener{Listener: l, most: most, ours: ours, open: make(map[netip.Addr]int)}
}

type listener struct {
	net.Listener
	most int
	ours func(netip.Addr) bool

	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu
}

// Accept waits for a connection of one who may have it.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := source(c.RemoteAddr())
		if !from.IsValid() || l.ours(from) {
			return c, nil
		}
		if l.begin(from) {
			return &conn{Conn: c, end: sync.OnceFunc(func() { l.end(from) })}, nil
		}
		_ = c.Close() // whoever it is has had enough
	}
}

func (l *listener) begin(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= l.most {
		return false
	}
	l.open[from]++
	return true
}

func (l *listener) end(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] <= 0 {
		delete(l.open, from)
	}
}

// conn is counted until it is closed.
type conn struct {
	net.Conn
	end func()
}

// Close ends the connection.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.end()
	return err
}

// source is for whom a connection is counted.
func source(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() && !ip.IsLoopback() {
		network, err := ip.Prefix(64)
		if err != nil {
			return ip
		}
		return network.Addr()
	}
	return ip
}

// OfThisHost tells whether the address is this host's: one that it has now, or any of its loopback.
func OfThisHost(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		network, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if own, valid := netip.AddrFromSlice(network.IP); valid && own.Unmap() == ip {
			return true
		}
	}
	return false
}
