from setuptools import find_packages, setup

NAME = "grids_rqt"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    package_data={f"{NAME}.web": ["page.css", "page.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml", "plugin.xml"]),
    ],
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="rqt plugin and stand-alone viewer of the GridS stack.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"view = {NAME}.cli:run"]},
)
