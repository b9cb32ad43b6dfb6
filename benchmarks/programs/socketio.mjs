// node socketio.mjs PORT: a room for each user, with the recovery of missed events switched on.
// MODULES is the folder with socket.io and pg; PGHOST, PGPORT, PGUSER and PGDATABASE name the database.
import http from "node:http";
import { createRequire } from "node:module";

const require = createRequire(process.env.MODULES + "/");
const { Server } = require("socket.io");
const { Client } = require("pg");
const [port] = process.argv.slice(2);
const database = new Client();
await database.connect();
const server = http.createServer();
const io = new Server(server, {
  connectionStateRecovery: { maxDisconnectionDuration: 120_000, skipMiddlewares: true },
});
io.on("connection", (socket) => {
  if (!socket.recovered) socket.join(socket.handshake.auth.user);
});
database.on("notification", ({ payload }) => {
  const { user, row } = JSON.parse(payload);
  io.to(user).emit("row", row);
});
await database.query("LISTEN changes");
server.listen(Number(port), "127.0.0.1", 4096);
