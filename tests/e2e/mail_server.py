"""A mail server with TLS for the stories of alerts: keeps each message as a file. Arguments: folder, certificate, key, tls or starttls.

Prints its port, then one line for each message that it took.
"""

import asyncio
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

folder, certificate, key, mode = sys.argv[1:5]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Keeper:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        Keeper.count += 1
        name = pathlib.Path(folder) / f"message-{Keeper.count}"
        head = f"X-Envelope: {envelope.mail_from} {','.join(envelope.rcpt_tos)} tls={mode == 'tls' or session.ssl is not None}\n"
        name.write_bytes(head.encode() + envelope.original_content)
        return "250 kept"


def check(server, session, envelope, mechanism, data):
    fine = isinstance(data, LoginPassword) and data.login == b"keepwell" and data.password == b"the password"
    # Not handled yet: otherwise the server takes it that the client was answered, and the client waits in vain.
    return AuthResult(success=fine, handled=False)


options = {"authenticator": check, "auth_required": True}
if mode == "starttls":
    options |= {"tls_context": context, "require_starttls": True}
else:
    options |= {"auth_require_tls": False}


async def serve():
    loop = asyncio.get_running_loop()
    wrapped = context if mode == "tls" else None
    server = await loop.create_server(lambda: SMTP(Keeper(), **options), "127.0.0.1", 0, ssl=wrapped)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(serve())
