package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/nodeless/nodeless/pkg/hint"
)

// Complete fills in what the host decides: the node's name and address. interfaces is net.Interfaces in the program.
func (c Config) Complete(hostname func() (string, error), address func() (netip.Addr, error)) (Config, error) {
	name, err := hostname()
	if c.Node.Name == "" {
		if err != nil {
			return c, &hint.Error{Op: "find host name", Err: err, Do: "give the node a name with --node-name"}
		}
		c.Node.Name = NodeName(name)
	}
	c.Node.Hostname = name
	if !c.Node.IP.IsValid() {
		ip, err := address()
		if err != nil {
			return c, &hint.Error{Op: "find the node's address", Err: err, Do: "give the host an address, or name one with --node-ip"}
		}
		c.Node.IP = ip
	}
	if !c.API.Advertise.IsValid() {
		c.API.Advertise = c.Node.IP
	}
	return c, c.Validate()
}

// NodeName is the name of the node on a host that is given none: of the form that super nodes of TKE Serverless have, one for each
// subnet. It tells a tenant nothing of the host.
func NodeName(hostname string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSuffix(hostname, "."))))
	return "eklet-subnet-" + hex.EncodeToString(sum[:4])
}

// HostAddress finds the address by which others reach this host: the source address of the default route,
// else the first global IPv4 address of an interface that is up. No packet is sent.
func HostAddress() (netip.Addr, error) {
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil { // TEST-NET-1: only the route is looked up
		local, _ := netip.ParseAddrPort(conn.LocalAddr().String())
		if err := conn.Close(); err == nil && usable(local.Addr()) {
			return local.Addr(), nil
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 || link.Name == "nodeless0" {
			continue
		}
		addrs, err := link.Addrs()
		if err != nil {
			return netip.Addr{}, err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && usable(p.Addr()) {
				return p.Addr(), nil
			}
		}
	}
	return netip.Addr{}, errors.New("no interface has an IPv4 address besides loopback")
}

func usable(a netip.Addr) bool {
	return a.Is4() && a.IsGlobalUnicast()
}
