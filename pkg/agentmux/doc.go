// Package agentmux carries many connections over the one virtio-serial port between a microVM's VMM
// and the guest agent. pkg/vmm calls Dial on the host side, cmd/nodeless-guest calls Listen
// inside the microVM; both need nothing but a byte stream.
//
// The port has no connection boundaries: a guest cannot see that its host went away and another one came (a VM restored from a template,
// a restarted VMM). So each host begins with a preamble, a marker that cannot occur in data, followed by a Hello. The guest drops
// whatever session it had and answers with an acknowledgement that repeats the host's nonce. Both speak yamux from there on.
//
// Marker: two or more bytes of 0xFF. Data never contains two, because the sender puts a zero byte behind
// each 0xFF and the receiver takes it out again. Hostile container output can therefore never look
// like a preamble, and half a frame left over from a dead host never swallows one.
package agentmux
