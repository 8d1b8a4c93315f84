package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/nodeless/nodeless/pkg/cidr"
	"github.com/nodeless/nodeless/pkg/netdev"
)

const (
	// Type is the plugin's name: the file containerd looks for in its plugin folder.
	Type = "nodeless"
	// ConfFile is the name of the configuration file in containerd's CNI configuration folder.
	ConfFile = "10-nodeless.conflist"
	// Version is the CNI version of the configuration file.
	Version = "1.1.0"
	// DefaultMTU suits every Ethernet.
	DefaultMTU = 1500
)

// Conf is the plugin's part of the configuration file.
type Conf struct {
	types.PluginConf
	PodCIDR netip.Prefix `json:"podCIDR"` // this host's share of the cluster range
	Gateway netip.Addr   `json:"gateway"`
	DataDir string       `json:"dataDir"` // where address allocations are kept, below it a folder named after the network
	MTU     int          `json:"mtu"`
	NFT     string       `json:"nft,omitempty"` // the program; empty means the one in PATH

	// RuntimeConfig is what the runtime says of one Pod. containerd reads it from the annotations kubernetes.io/egress-bandwidth and
	// ingress-bandwidth. It has no ports unless the configuration asks for them.
	RuntimeConfig struct {
		Bandwidth    struct{ IngressRate, EgressRate int64 } `json:"bandwidth"` // in bits a second; 0 is none
		PortMappings []portMapping                           `json:"portMappings"`
	} `json:"runtimeConfig,omitzero"`
}

// portMapping is a port of the host that a Pod asks for, as CNI's conventions have it.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// ports are those of the host that the Pod asks for. The network has IPv4 alone.
func (c *Conf) ports() (all []netdev.HostPort, err error) {
	for _, m := range c.RuntimeConfig.PortMappings {
		p := netdev.HostPort{Protocol: strings.ToLower(m.Protocol), Port: m.HostPort, PodPort: m.ContainerPort}
		if p.Port <= 0 {
			continue
		}
		if p.Port > 65535 || p.PodPort < 1 || p.PodPort > 65535 || !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			return nil, fmt.Errorf("port mapping %+v: want ports of tcp, udp or sctp", m)
		}
		if m.HostIP != "" {
			if p.HostIP, err = netip.ParseAddr(m.HostIP); err != nil {
				return nil, fmt.Errorf("port mapping %+v: %w", m, err)
			}
			if p.HostIP = p.HostIP.Unmap(); !p.HostIP.Is4() {
				return nil, fmt.Errorf("port mapping %+v: Pods have IPv4 alone", m)
			}
			if p.HostIP.IsUnspecified() {
				p.HostIP = netip.Addr{}
			}
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// bandwidth is one of the Pod's own, in bytes a second; 0 is none.
func bandwidth(bits int64) int64 {
	if bits <= 0 || bits/8 > netdev.MaxBandwidth {
		return 0
	}
	return max(bits/8, 1)
}

// host is what pkg/netdev needs to know for the rules of one link.
func (c *Conf) host() netdev.Config { return netdev.Config{NFT: c.NFT} }

// Validate reports all faults at once.
func (c *Conf) Validate() error {
	var errs []error
	if !c.PodCIDR.IsValid() || !c.PodCIDR.Addr().Is4() || cidr.Size(c.PodCIDR) < 4 {
		errs = append(errs, fmt.Errorf("podCIDR %s: not an IPv4 range with room for Pods", c.PodCIDR))
	} else if !c.PodCIDR.Contains(c.Gateway) {
		errs = append(errs, fmt.Errorf("gateway %s: outside of podCIDR %s", c.Gateway, c.PodCIDR))
	}
	if c.Name == "" {
		errs = append(errs, errors.New("name: empty"))
	}
	if c.DataDir == "" {
		errs = append(errs, errors.New("dataDir: empty"))
	}
	if c.MTU < 576 || c.MTU > 65535 {
		errs = append(errs, fmt.Errorf("mtu %d: not between 576 and 65535", c.MTU))
	}
	return errors.Join(errs...)
}

// ConfList renders the configuration file.
func ConfList(podCIDR netip.Prefix, gateway netip.Addr, dataDir string, mtu int, nft string, ports bool) ([]byte, error) {
	conf := &Conf{PodCIDR: podCIDR, Gateway: gateway, DataDir: dataDir, MTU: mtu, NFT: nft}
	conf.Name, conf.Type = Type, Type
	if err := conf.Validate(); err != nil {
		return nil, fmt.Errorf("render CNI configuration: %w", err)
	}
	plugin := map[string]any{
		"type":    Type,
		"podCIDR": podCIDR,
		"gateway": gateway,
		"dataDir": dataDir,
		"mtu":     mtu,
		"nft":     nft,
		// What containerd is to tell of each Pod.
		"capabilities": map[string]bool{"bandwidth": true, "portMappings": ports},
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": Version,
		"name":       Type,
		"plugins":    []any{plugin},
	}, "", "  ")
}

// parse reads what containerd hands to the plugin.
func parse(stdin []byte) (*Conf, error) {
	conf := &Conf{MTU: DefaultMTU}
	if err := json.Unmarshal(stdin, conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "read network configuration", err.Error())
	}
	if err := conf.Validate(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "check network configuration", err.Error())
	}
	return conf, nil
}
