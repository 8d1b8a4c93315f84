package netdev

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch tells of each change that somebody makes to the structure of our tables, or may have made, until ctx ends or the kernel tells
// no more. It sends nothing while the last word has not been received.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("watch packet rules: %w", err)
	}
	changes := make(chan struct{}, 1)
	context.AfterFunc(ctx, socket.Close)
	go func() {
		defer close(changes)
		for {
			messages, _, err := socket.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				return
			}
			if err == nil && !concernsUs(messages) {
				continue
			}
			select {
			case changes <- struct{}{}: // an error is one as well: of more changes than the socket had room for
			default:
			}
		}
	}()
	return changes, nil
}

// concernsUs tells whether a message is of a table, chain, rule or set of ours. Elements are left out: those of Pods come and go.
func concernsUs(messages []syscall.NetlinkMessage) bool {
	for _, m := range messages {
		switch m.Header.Type & 0xff {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN,
			unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET:
		default:
			continue
		}
		if len(m.Data) < nl.SizeofNfgenmsg {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m.Data[nl.SizeofNfgenmsg:])
		if err != nil {
			return true
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_TABLE_NAME && unix.ByteSliceToString(a.Value) == Table { // in all of them the name of the table
				return true
			}
		}
	}
	return false
}
