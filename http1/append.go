package http1

import "roster/message"

func AppendRequest(dst []byte, r *message.Request) []byte                    { panic("unfinished") }
func AppendResponse(dst []byte, r *message.Response, peerMinor uint8) []byte { panic("unfinished") }

// ChunkEnd follows the data of each chunk.
const ChunkEnd = "\r\n"

func AppendChunk(dst []byte, n int) []byte                        { panic("unfinished") }
func AppendLastChunk(dst []byte, trailers []message.Field) []byte { panic("unfinished") }
